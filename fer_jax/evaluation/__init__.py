"""From probabilities to a report: predictions, metrics, calibration, plots."""
