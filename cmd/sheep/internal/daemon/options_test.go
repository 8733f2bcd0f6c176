package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func parse(t *testing.T, args ...string) (*Settings, error) {
	t.Helper()
	o := &options{}
	var s *Settings
	var cmd *cobra.Command
	cmd = command(o, "v", func() (err error) { s, err = o.settings(cmd.Flags().Changed("vnodes")); return err })
	cmd.SetArgs(args)
	cmd.SetOut(os.Stderr)
	return s, cmd.Execute()
}

func TestSettings(t *testing.T) {
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	zone := func(n uint32) *uint32 { return &n }
	for _, tt := range []struct {
		args string
		want Settings
	}{
		{"/m", Settings{Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, NBDAddr: "127.0.0.1:10809"}},
		{"/m,/d1,d2 -p 7003", Settings{Port: 7003, Disks: []string{"/d1", cwd + "/d2"}, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, NBDAddr: "127.0.0.1:10812"}},
		{"-z 0 -p 7000 -c local -n -y 127.0.0.1 /m", Settings{Told: true, Port: 7000, Zone: zone(0), Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, NoSync: true, NBDAddr: "127.0.0.1:10809"}},
		{"/m -b 10.0.0.1 -g -c local:/x", Settings{Told: true, Port: 7000, Advertise: "10.0.0.1", Bind: "10.0.0.1", Local: true, LocalFile: "/x", Gateway: true, NBDAddr: "127.0.0.1:10809"}},
		{"/m -b 0.0.0.0 -y 10.0.0.1 --nbd none", Settings{Port: 7000, Advertise: "10.0.0.1", Bind: "0.0.0.0", Local: true}},
		{"/m -y ::1 --nbd [::]:1 -z 4294967295", Settings{Port: 7000, Zone: zone(4294967295), Advertise: "::1", Bind: "::1", Local: true, NBDAddr: "[::]:1"}},
		{"/m -c gossip:a:7000,[::1]:7001 -V 64 --nbd 0.0.0.0", Settings{Told: true, Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Seeds: []string{"a:7000", "[::1]:7001"}, VNodes: 64, NBDAddr: "0.0.0.0:10809"}},
		{"/m -y 10.0.0.1 -p 7001 --nbd none", Settings{Port: 7001, Advertise: "10.0.0.1", Bind: "10.0.0.1", Local: true, APIAddr: "127.0.0.1:7001"}},
		{"/m -p 65000 --nbd none --foreground", Settings{Port: 65000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, foreground: true}},
		{"/m --nbd none --recovery-delay 1m", Settings{Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, RecoveryDelay: time.Minute}},
		{"/m --nbd none --near-full 50 --full 60 --reserve 1g", Settings{Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, NearFull: 50, Full: 60, Reserve: 1 << 30}},
		{"/m --nbd none --defragment-rate 1m", Settings{Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, DefragmentRate: 1 << 20}},
		{"/m --nbd none --defragment-rate 0", Settings{Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true}},
		{"/m --nbd none --scrub-every 24h", Settings{Port: 7000, Advertise: "127.0.0.1", Bind: "127.0.0.1", Local: true, ScrubEvery: 24 * time.Hour}},
	} {
		got, err := parse(t, strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if tt.want.RecoveryDelay == 0 {
			tt.want.RecoveryDelay = 5 * time.Second
		}
		if tt.want.Full == 0 {
			tt.want.NearFull, tt.want.Full, tt.want.Reserve = 85, 95, 64<<20
		}
		if tt.want.DefragmentRate == 0 && !strings.Contains(tt.args, "--defragment-rate 0") {
			tt.want.DefragmentRate = 32 << 20
		}
		if tt.want.ScrubEvery == 0 {
			tt.want.ScrubEvery = 14 * 24 * time.Hour
		}
		tt.want.Meta, tt.want.log = "/m", logSettings{path: "/m/sheep.log", dst: "default"}
		if !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.args, *got, tt.want)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for args, want := range map[string]string{
		"":                       "No metadata directory",
		"/a /b":                  "accepts at most 1 arg",
		"/a,,/b":                 "Empty path",
		"/a,/b,/b":               "given twice",
		"/m -p 0":                "Invalid port number '0'",
		"/m -p 65536":            "Invalid port number",
		"/m -p x":                "invalid argument",
		"/m -p":                  "needs an argument",
		"/m --what":              "unknown flag",
		"/m -p 62000":            "No NBD port follows from port 62000",
		"/m --nbd nonsense":      "Invalid address 'nonsense'",
		"/m --nbd 127.0.0.1:0":   "Invalid port number '0' (--nbd)",
		"/m -y host":             "Invalid address 'host' (-y)",
		"/m -y 0.0.0.0":          "Invalid address '0.0.0.0' (-y)",
		"/m -b x":                "Invalid address 'x' (-b)",
		"/m -b 0.0.0.0":          "needs -y",
		"/m -z -1":               "Invalid zone id '-1'",
		"/m -z 4294967296":       "Invalid zone id",
		"/m -c x":                "Invalid cluster driver 'x'",
		"/m -c corosync":         "-c gossip:",
		"/m -c zookeeper:a:2181": "-c gossip:",
		"/m -c gossip":           "want HOST:PORT",
		"/m -c gossip:a":         "want HOST:PORT",
		"/m -c gossip:a:7000,":   "want HOST:PORT",
		"/m -c gossip:a:0":       "want HOST:PORT",
		"/m -c local:":           "the file is empty",
		"/m --defragment-rate x": "Invalid size 'x' (--defragment-rate)",
		"/m -V 0":                "Invalid number of vnodes '0'",
		"/m -V 65536":            "Invalid number of vnodes",
		"/m -g -V 1":             "can not be both specified",
		"/m --reserve ıııı":      "Invalid size 'ıııı' (--reserve)",
		"/m -j size=1M":          "invalid size 1M, must be bigger than 64(M)",
		"/m -j dir=/j":           "you must specify size for journal",
		"/m -j size=":            "Invalid journal option 'size='",
		"/m -j size=x,skip":      "Invalid size 'x' (-j)",
		"/m -j size=-64M":        "Invalid size '-64M' (-j)",
		"/m -j size=9999999999T": "Invalid size '9999999999T' (-j)",
		"/m -j 64M":              "Invalid journal option '64M'",
		"/m -l level=loud":       "Invalid log level 'loud'",
		"/m -l dst=paper":        "Invalid log option",
		"/m -l dir=":             "Invalid log option",
	} {
		if _, err := parse(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("sheep %s: %v, want %q", args, err, want)
		}
	}
}

func TestLogOptions(t *testing.T) {
	for s, want := range map[string]logSettings{
		"":                                  {path: "/m/sheep.log", dst: "default"},
		"debug":                             {level: slog.LevelDebug, path: "/m/sheep.log", dst: "default"},
		"level=warning,format=json":         {level: slog.LevelWarn, json: true, path: "/m/sheep.log", dst: "default"},
		"dir=/var/log,level=err,dst=syslog": {level: slog.LevelError, path: "/var/log/sheep.log", dst: "syslog"},
		"format=server,dst=stdout":          {path: "/m/sheep.log", dst: "stdout"},
	} {
		if got, err := parseLog(s, "/m"); err != nil || got != want {
			t.Errorf("-l %s: %+v, %v", s, got, err)
		}
	}
}

func TestReopenFailureKeepsTheOldLog(t *testing.T) {
	dir := t.TempDir()
	_, file, err := openLog(logSettings{path: filepath.Join(dir, "d/sheep.log"), dst: "default"}, new(slog.LevelVar))
	if err != nil {
		t.Fatal(err)
	}
	defer file.file.Close()
	if err := os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")); err != nil {
		t.Fatal(err)
	}
	if err := file.reopen(); err == nil {
		t.Fatal("reopened in a directory that is gone")
	}
	if _, err := file.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "e/sheep.log")); err != nil || string(b) != "still here" {
		t.Fatalf("old log has %q, %v", b, err)
	}
}
