complete --keep-order --exclusive --command banger-image --arguments "(COMPLETE=fish banger-image -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
