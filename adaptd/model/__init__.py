"""The model's four parts, one module each: encoder → attention over memory (adapter) → decoder. torch begins here."""
