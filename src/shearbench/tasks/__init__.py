"""What networks are trained for, a package each; `shearbench.training` trains them all."""
