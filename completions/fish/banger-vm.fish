complete --keep-order --exclusive --command banger-vm --arguments "(COMPLETE=fish banger-vm -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
