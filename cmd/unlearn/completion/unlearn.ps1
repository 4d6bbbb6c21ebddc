# Completion of unlearn in PowerShell 7.3 and later: unlearn completion powershell | Out-String | Invoke-Expression

Register-ArgumentCompleter -Native -CommandName unlearn -ScriptBlock {
    param($current, $command, $cursor)
    $words = @($command.CommandElements | Select-Object -Skip 1 |
        Where-Object { $_.Extent.EndOffset -lt $cursor } | ForEach-Object { "$_" }) + "$current"
    & $command.CommandElements[0].Value __complete -- @words 2>$null | ForEach-Object {
        $value, $about = $_ -split "`t", 2
        if ($value -match '^:(files|dirs) (.*)$') {
            $kind, $prefix = $Matches[1], $Matches[2]
            Get-ChildItem -Path ($current.Substring($prefix.Length) + '*') -Directory:($kind -eq 'dirs') |
                ForEach-Object { $prefix + (Resolve-Path -Relative $_.FullName) } |
                ForEach-Object { [System.Management.Automation.CompletionResult]::new($_) }
        } else {
            if (-not $about) { $about = $value }
            [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $about)
        }
    }
}
