"""Scores of labels and masks: from counts of label pairs, and along skeletons."""
