"""Kafka: requests from one topic, responses to another."""
