"""What is measured, tried and compared, beside the package."""
