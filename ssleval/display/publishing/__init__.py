"""Results for others: files for the Hugging Face Hub, tables, and a static site. Imports no torch."""
