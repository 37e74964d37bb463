"""Hugging Face's inference API as its `InferenceClient` speaks it: one URL an adapter, the task is the adapter's."""
