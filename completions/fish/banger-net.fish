complete --keep-order --exclusive --command banger-net --arguments "(COMPLETE=fish banger-net -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
