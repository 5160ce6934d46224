"""What `experiments.benchmark --accelerator` measures, part by part."""
