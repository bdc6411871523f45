complete --keep-order --exclusive --command banger --arguments "(COMPLETE=fish banger -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
