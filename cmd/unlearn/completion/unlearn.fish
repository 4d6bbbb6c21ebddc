# Completion of unlearn in fish: unlearn completion fish | source

function __unlearn_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l typed (commandline -ct)
    set -l current (string unescape -- "$typed"; or echo -- "$typed")
    for line in ($program __complete -- $words "$current" 2>/dev/null)
        set -l prefix (string replace --regex '^:(files|dirs) ' '' -- $line)
        switch $line
            case ':files *'
                for path in (__fish_complete_path (string replace -- "$prefix" '' "$current"))
                    echo -- $prefix$path
                end
            case ':dirs *'
                for path in (__fish_complete_directories (string replace -- "$prefix" '' "$current"))
                    echo -- $prefix$path
                end
            case '*'
                echo -- $line
        end
    end
end

complete -c unlearn -f -a '(__unlearn_complete)'
