"""What the README's numbers come from: ``python -m benchmarks.run`` from the checkout's folder."""
