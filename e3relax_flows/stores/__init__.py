"""Stores of documents: opening, the embedded one, queries, decoding; they know no document of ours."""
