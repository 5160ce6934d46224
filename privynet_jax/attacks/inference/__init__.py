"""Attacks that rebuild no image: what else representations and a cloud NN give away.

`attributes` infers a label that nobody released, `reidentification` finds the picture behind a
representation among candidates, `membership` tells who was in the cloud NN's training set.
`classifiers` trains what they need, `experiments.infer` runs all three on topologies.
"""
