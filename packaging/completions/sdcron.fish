# fish completion for sdcron: sdcron itself says what comes next.

function __sdcron_complete
    env _SDCRON_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) sdcron 2>/dev/null
end

complete --command sdcron --no-files --condition '__sdcron_complete is-args' --arguments '(__sdcron_complete get-args)'
