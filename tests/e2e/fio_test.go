package e2e

import (
	"os/exec"
	"strings"

	"sheepdog/tests/internal/lab"
)

// holdOpen attaches a client to the VDI at a sheep, writes, and stays attached
// until the test ends, so that this sheep coordinates.
func (w *world) holdOpen(s *lab.Sheep, name string) {
	w.TB.Helper()
	lab.Need(w.TB, "qemu-io")
	cmd := exec.Command("qemu-io", "-f", "raw", w.URI(s, name))
	in, err := cmd.StdinPipe()
	if err != nil {
		w.TB.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.TB.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.TB.Fatal(err)
	}
	w.TB.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := in.Write([]byte("write -P 1 60M 4k\n")); err != nil {
		w.TB.Fatal(err)
	}
	buf := make([]byte, 4096)
	for got := ""; ; {
		n, err := out.Read(buf)
		if err != nil {
			w.TB.Fatalf("qemu-io: %v: %s", err, got)
		}
		got += string(buf[:n])
		if strings.Contains(got, "wrote") {
			return
		}
	}
}
