"""WebDataset shards: tar files of clips, written with an index, read by place, shuffled by index."""
