"""The code behind the estimators: fits, moments, metacalibration and trained networks."""
