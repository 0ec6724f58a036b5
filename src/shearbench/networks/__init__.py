"""Network architectures: one file each, found by `shearbench.options.discover`."""
