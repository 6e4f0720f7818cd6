"""The training engine: data, model, inner steps, update codecs, outer step, and the worker subprocess around them."""
