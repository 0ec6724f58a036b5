"""What a paper includes: tables, numbers with their errors, captions, a document, and the manifest."""
