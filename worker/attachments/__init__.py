"""What a turn has of its thread's attachments: shown to the model, read by tools, gone again."""
