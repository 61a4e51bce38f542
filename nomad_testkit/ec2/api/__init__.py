"""The cloud's AWS API: moto, subclassed."""
