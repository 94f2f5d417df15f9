"""What the reproductions of the paper share: data, batches, networks, methods, one run."""
