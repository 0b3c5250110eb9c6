"""From photographs and video to answers: faces found, cut out, recognised, drawn, explained."""
