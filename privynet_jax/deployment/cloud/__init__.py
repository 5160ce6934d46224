"""A release to a classifier, without pictures, plan or pretrained network."""
