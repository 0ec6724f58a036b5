"""Other people's estimators: what runs behind the options in `shearbench.estimators`."""
