"""Training: P-Tuning v2 on a frozen backbone, on the same rows, layout and heads as serving."""
