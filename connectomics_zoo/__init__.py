"""The engine of the model zoo; its public API is `import zoo`."""
