"""The tasks for which networks are trained, one package each; `shearbench.training` trains all of them."""
