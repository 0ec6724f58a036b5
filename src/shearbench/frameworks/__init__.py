"""The same small network in NumPy, PyTorch, JAX and Keras; ShearNet's published networks."""
