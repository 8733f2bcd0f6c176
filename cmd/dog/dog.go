package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
)

// dog is one invocation: its streams, its environment and the options that all
// commands have.
type dog struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	zone           *time.Location   // nil: local time
	now            func() time.Time // nil: the clock

	address, port string
	output        string
	raw, verbose  bool
	elapsed, yes  bool
	timeout       time.Duration
	bytes         bool // stdout has those of a VDI

	talking sync.Mutex
}

// run executes the command line and returns the exit code.
func (d *dog) run(ctx context.Context, args []string) int {
	if d.zone == nil {
		d.zone = time.Local
	}
	if d.now == nil {
		d.now = time.Now
	}
	begin := time.Now()
	d.logCommand(args)
	root := d.commands()
	err := d.execute(ctx, root, args)
	if d.elapsed {
		out := d.stdout
		if d.json() || d.bytes {
			out = d.stderr // it is no part of a document, nor of the bytes of a VDI
		}
		fmt.Fprintf(out, "\nElapsed time: %.3f seconds\n", time.Since(begin).Seconds())
	}
	return d.report(err)
}

func (d *dog) execute(ctx context.Context, root *cobra.Command, args []string) error {
	if err := checkWords(root, args); err != nil {
		return err
	}
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case args[0] == "--version":
		return d.print("dog " + version + "\n")
	}
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// commands is the tree of all commands.
func (d *dog) commands() *cobra.Command {
	root := &cobra.Command{Use: "dog", Short: "Administer a Sheepdog cluster", SilenceErrors: true, SilenceUsage: true}
	root.SetUsageFunc(usage)
	root.SetOut(d.stdout)
	root.SetErr(d.stderr)
	root.SetIn(d.stdin)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return badUsage(err) })
	root.SetGlobalNormalizationFunc(longNames)
	f := root.PersistentFlags()
	f.StringVarP(&d.address, "address", "a", d.env("SHEEPDOG_DOG_ADDR", "127.0.0.1"), "address of a node")
	f.StringVarP(&d.port, "port", "p", d.env("SHEEPDOG_DOG_PORT", strconv.Itoa(sheepdog.DefaultPort)), "port of the node")
	f.StringVarP(&d.output, "output", "o", "text", "output format: text or json")
	f.BoolVarP(&d.raw, "raw", "r", false, "output for scripts: no header, bytes, epoch seconds")
	f.BoolVarP(&d.verbose, "verbose", "v", false, "print more")
	f.BoolVarP(&d.elapsed, "time", "T", false, "print how long the command took")
	f.BoolVar(&d.yes, "yes", false, "answer yes to all questions")
	root.Flags().Bool("version", false, "print the version")
	f.DurationVar(&d.timeout, "timeout", 0, "give up after this time, as 30s (default: never)")
	root.AddCommand(d.vdiCommands(), d.nodeCommands(), d.clusterCommands(), d.benchmarkCommands(), d.upgradeCommands(), d.status(), d.df(), d.doctor(), d.man())
	root.Long = overview(root)
	return root
}

// overview lists all commands under what the program is.
func overview(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(root.Short + ".\n")
	for _, g := range root.Commands() {
		if g.Hidden {
			continue
		}
		if !g.HasSubCommands() {
			fmt.Fprintf(&b, "\n  %-8s %s", g.Name(), g.Short)
			continue
		}
		fmt.Fprintf(&b, "\n  %-8s", g.Name())
		for _, c := range g.Commands() {
			b.WriteString(" " + c.Name())
		}
	}
	return b.String()
}

func (d *dog) env(name, preset string) string {
	if v := d.getenv(name); v != "" {
		return v
	}
	return preset
}

// group is a first word, such as vdi.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: name, Short: short}
	g.AddCommand(commands...)
	return g
}

// subgroup is a second word that needs a third, such as vdi lock. Without one its
// usage is printed and it fails.
func (d *dog) subgroup(name, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs}
	g.RunE = func(cmd *cobra.Command, args []string) error {
		if err := d.checkOptions(); err != nil {
			return err
		}
		fmt.Fprint(cmd.OutOrStdout(), cmd.UsageString())
		if len(args) > 0 {
			return badUsage(fmt.Errorf("Invalid command '%s %s'", cmd.CommandPath(), args[0]))
		}
		return &failure{code: exitFailed, err: fmt.Errorf("Please specify what to do with %s", cmd.CommandPath())}
	}
	g.AddCommand(commands...)
	return g
}

// checkWords holds the rule that the two words of a command come first.
func checkWords(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	switch args[0] {
	case "help", "-h", "--help", "--version", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
		return nil
	}
	g := child(root, args[0])
	if g == nil {
		return badUsage(fmt.Errorf("Invalid command '%s'", args[0]))
	}
	if !g.HasSubCommands() {
		return nil
	}
	second := ""
	if len(args) > 1 {
		second = args[1]
	}
	if second == "-h" || second == "--help" || child(g, second) != nil {
		return nil
	}
	var list strings.Builder
	for _, c := range g.Commands() {
		fmt.Fprintf(&list, "\n  %-12s %s", c.Name(), c.Short)
	}
	words := strings.TrimSpace(args[0] + " " + second)
	return &failure{code: exitUsage, err: fmt.Errorf("Invalid command '%s'\nAvailable %s commands:%s", words, args[0], list.String())}
}

func child(c *cobra.Command, name string) *cobra.Command {
	for _, sub := range c.Commands() {
		if sub.Name() == name {
			return sub
		}
	}
	return nil
}

// action is what a command does with its client.
type action func(ctx context.Context, c *api.Client, args []string) error

// with wraps an action as cobra runs it: checks common options, limits the
// time, makes the client.
func (d *dog) with(run action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := d.checkOptions(); err != nil {
			return err
		}
		ctx := cmd.Context()
		if d.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, d.timeout, errTimeout)
			defer cancel()
		}
		c := api.NewClient(net.JoinHostPort(strings.Trim(d.address, "[]"), d.port))
		defer c.Close()
		defer d.explainWaits(ctx, c)()
		err := named(ctx, c, cmd, args)
		if err == nil {
			err = run(ctx, c, args)
		}
		var f *failure
		if errors.As(err, &f) && f.usage {
			fmt.Fprint(d.stdout, cmd.UsageString())
		}
		return err
	}
}

func (d *dog) checkOptions() error {
	if n, err := strconv.Atoi(d.port); err != nil || n < 1 || n > 65535 {
		return badUsage(fmt.Errorf("Invalid port number '%s'", d.port))
	}
	if d.address == "" || strings.ContainsAny(d.address, " /@?#%") && !strings.Contains(d.address, ":") {
		return &failure{code: exitFailed, err: fmt.Errorf("Invalid ip address %s", d.address)}
	}
	if d.output != "text" && d.output != "json" {
		return badUsage(fmt.Errorf("Invalid output format '%s': want text or json", d.output))
	}
	if d.timeout < 0 {
		return badUsage(fmt.Errorf("Invalid time-out '%s': want more than zero", d.timeout))
	}
	return nil
}

// arguments wants from least to most of them; names say what is missing, in
// order.
func arguments(least, most int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			fmt.Fprint(cmd.OutOrStdout(), cmd.UsageString())
			return badUsage(fmt.Errorf("Please specify the %s", names[len(args)]))
		case len(args) > most:
			fmt.Fprint(cmd.OutOrStdout(), cmd.UsageString())
			return badUsage(fmt.Errorf("Too many arguments: '%s'", args[most]))
		}
		return nil
	}
}

// json reports whether documents are wanted.
func (d *dog) json() bool { return d.output == "json" }

// would says what a command with --dry-run would do.
func (d *dog) would(what string) error {
	if d.json() {
		return d.document(dryRun{Version: api.Version, DryRun: true, Would: what})
	}
	return d.print("would " + what + "\n")
}

// dryRun is what a command with --dry-run prints with -o json.
type dryRun struct {
	Version int    `json:"version"`
	DryRun  bool   `json:"dryRun"`
	Would   string `json:"would"`
}

// document prints one document of the API.
func (d *dog) document(doc any) error {
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	return d.print(string(data) + "\n")
}

// print writes data to stdout; a full disk there is a failure of the command.
func (d *dog) print(text string) error {
	if _, err := io.WriteString(d.stdout, text); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// talk writes a line to stderr, where it disturbs no script.
func (d *dog) talk(format string, args ...any) {
	d.talking.Lock()
	defer d.talking.Unlock()
	fmt.Fprintf(d.stderr, format+"\n", args...)
}
