package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// writePages writes a page in roff for every command into a directory.
func writePages(cmd *cobra.Command, dir string) error {
	if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
		return nil
	}
	path := filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8")
	if err := os.WriteFile(path, page(cmd), 0o644); err != nil {
		return err
	}
	for _, c := range cmd.Commands() {
		if err := writePages(c, dir); err != nil {
			return err
		}
	}
	return nil
}

// page is the manual of one command.
func page(cmd *cobra.Command) []byte {
	var b bytes.Buffer
	title := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 8 \"\" \"Sheepdog\" \"Sheepdog manual\"\n", roff(strings.ToUpper(title)))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(title), roff(cmd.Short))
	_, arguments, _ := strings.Cut(cmd.Use, " ")
	synopsis := strings.TrimSpace(cmd.CommandPath() + " [options] " + arguments)
	if !cmd.Runnable() || cmd.HasSubCommands() && arguments == "" {
		synopsis = cmd.CommandPath() + " <command> [options]"
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(synopsis))
	pageFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	pageFlags(&b, "COMMON OPTIONS", cmd.InheritedFlags())
	b.WriteString(pageEnd)
	pageLinks(&b, cmd)
	return b.Bytes()
}

const pageEnd = `.SH EXIT STATUS
0 done; 1 failed; 2 the cluster or a host cannot be reached or cannot serve; 3 the attribute exists (setattr \-x);
4 no space left; 5 the attribute or its VDI is missing; 64 wrong command line; 255 a node refused a setting.
.SH ENVIRONMENT
SHEEPDOG_DOG_ADDR and SHEEPDOG_DOG_PORT preset \-a and \-p. With SHEEPDOG_DOG_LOG command lines are logged to syslog, or to
the file SHEEPDOG_DOG_LOG_PATH.
`

func pageFlags(b *bytes.Buffer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, text := pflag.UnquoteUsage(f)
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(name+" "+kind)), roff(text))
	})
}

func pageLinks(b *bytes.Buffer, cmd *cobra.Command) {
	var links []string
	if cmd.HasParent() {
		links = append(links, cmd.Parent().CommandPath())
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			links = append(links, c.CommandPath())
		}
	}
	if len(links) == 0 {
		return
	}
	b.WriteString(".SH SEE ALSO\n")
	for i, l := range links {
		links[i] = ".BR " + roff(strings.ReplaceAll(l, " ", "-")) + " (8)"
	}
	b.WriteString(strings.Join(links, "\n") + "\n")
}

// roff escapes text, also at the start of a line, where a dot is a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
