"""Jobs over volumes in blocks: which block is where, which are done, and where they are worked on."""
