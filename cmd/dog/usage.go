package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage prints how a command is used, and nothing of how it is called in code.
func usage(cmd *cobra.Command) error {
	out := cmd.OutOrStdout()
	if !cmd.Runnable() {
		fmt.Fprintf(out, "Usage: %s <command> [options]\n", cmd.CommandPath())
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				fmt.Fprintf(out, "  %-12s %s\n", c.Name(), c.Short)
			}
		}
	} else {
		fmt.Fprintln(out, "Usage: "+synopsis(cmd))
		subcommands(out, cmd)
	}
	fmt.Fprintln(out, "Options:")
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { optionLine(out, f) })
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) { optionLine(out, f) })
	return nil
}

// synopsis is a command, its short options, and its arguments.
func synopsis(cmd *cobra.Command) string {
	_, arguments, _ := strings.Cut(cmd.Use, " ")
	words := []string{cmd.CommandPath()}
	add := func(f *pflag.Flag) {
		name := "-" + f.Shorthand
		switch {
		case f.Hidden || f.Shorthand == "" || strings.Contains(arguments, name+" ") || strings.Contains(arguments, name+"]") || strings.Contains(arguments, name+"}"):
		case f.Value.Type() == "bool":
			words = append(words, "["+name+"]")
		default:
			words = append(words, "["+name+" "+f.Name+"]")
		}
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return strings.TrimSpace(strings.Join(append(words, arguments), " "))
}

// optionLine describes one option, as all commands show it.
func optionLine(out io.Writer, f *pflag.Flag) {
	if f.Hidden {
		return
	}
	name := "    --" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", --" + f.Name
	}
	text := f.Usage
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" && !strings.Contains(text, "default") {
		text += " (default " + f.DefValue + ")"
	}
	fmt.Fprintf(out, "  %-23s %s\n", name, strings.TrimSpace(text))
}

// subcommands lists the third words of a command that has them.
func subcommands(out io.Writer, cmd *cobra.Command) {
	if !cmd.HasAvailableSubCommands() {
		return
	}
	fmt.Fprintln(out, "Available subcommands:")
	for _, c := range cmd.Commands() {
		fmt.Fprintf(out, "  %-24s %s\n", c.Name(), c.Short)
	}
}

// longNames lets scripts write long options as they know them.
func longNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "oid":
		name = "output" // -o is an object id to the commands that take one
	case "writeback":
		name = "writethrough"
	}
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}
