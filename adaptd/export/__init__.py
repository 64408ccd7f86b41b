"""Export: a version as a model that answers without adaptd: its encoder, memory, ridge and decoder in one file."""
