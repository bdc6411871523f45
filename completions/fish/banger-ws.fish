complete --keep-order --exclusive --command banger-ws --arguments "(COMPLETE=fish banger-ws -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
