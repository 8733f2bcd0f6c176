package state

import (
	"flag"
	"os"
	"testing"
)

// TestMain lowers the number of random command sequences, each of which moves
// tables of 65536 partitions; -rapid.checks on the command line raises it.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
