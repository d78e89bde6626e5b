"""Jobs over volumes that are cut into blocks: which block is where, what is done, and where the blocks are worked on."""
