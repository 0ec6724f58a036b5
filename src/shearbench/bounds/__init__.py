"""Lower bounds on the errors of shape estimates: the Cramer-Rao bound and the Bayes floor."""
