"""Classification of galaxies by morphology: data, networks, objective, training and prediction."""
