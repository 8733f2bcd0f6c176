package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// removeTimeout bounds the removal of a half-imported VDI after a failure or an
// interrupt.
const removeTimeout = 30 * time.Second

// importOptions are those of `vdi import`.
type importOptions struct {
	file, format string
	size         string // of what comes through a pipe
	pad          bool   // which may end before
	copies       string
	shift        int
	create       api.CreateRequest
}

func (d *dog) vdiImport() *cobra.Command {
	o := &importOptions{}
	cmd := &cobra.Command{Use: "import <file> <vdiname>", Short: "Make a VDI of a disk image (raw, qcow2, vmdk, ...; - is raw from stdin)", Args: arguments(2, 2, "image file", "VDI name"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			o.file, o.create.Name = args[0], args[1]
			if err := o.parse(); err != nil {
				return err
			}
			if o.file == "-" {
				return failed(d.importStream(ctx, c, o), "import stdin as VDI %s", o.create.Name)
			}
			if o.pad {
				return fmt.Errorf("--pad is for stdin; a file is as long as it is, and --size may be more")
			}
			return failed(d.importFile(ctx, c, o), "import %s as VDI %s", o.file, o.create.Name)
		})}
	f := cmd.Flags()
	f.StringVarP(&o.format, "format", "f", "", "format of the file (default: found out; name it for images you do not trust)")
	f.StringVar(&o.size, "size", "", "size of the VDI (default: that of the image; needed for a pipe)")
	f.BoolVar(&o.pad, "pad", false, "a pipe may end before --size: the rest is zeros")
	f.StringVarP(&o.copies, "copies", "c", "", "redundancy: copies, or D:P for erasure coding (default: the cluster's)")
	f.IntVarP(&o.shift, "block_size_shift", "z", 0, "object size as a power of two (default: the cluster's)")
	f.IntVar(&o.shift, "block-size-shift", 0, "the same")
	return cmd
}

func (o *importOptions) parse() error {
	if o.copies != "" {
		o.create.Copies = &sheepdog.Policy{}
		if err := parseCopies(o.copies, o.create.Copies); err != nil {
			return err
		}
	}
	if o.shift != 0 {
		if err := checkShift(o.shift); err != nil {
			return err
		}
		o.create.BlockSizeShift = uint8(o.shift)
	}
	if o.size != "" {
		n, err := parseVDISize(o.size, o.shift)
		if err != nil {
			return err
		}
		o.create.SizeBytes = n
	}
	return nil
}

// filled makes a VDI, has it filled, and removes it again if that failed. It gets its
// name when it is complete: what a dog that was killed leaves is taken for no VDI.
func (d *dog) filled(ctx context.Context, c *api.Client, o *importOptions, fill func(name string) error) error {
	name := o.create.Name
	place, err := api.PlaceFor(ctx, c, name, d.now())
	if err != nil {
		return err
	}
	req := o.create
	req.Name = place
	v, err := c.CreateVDI(ctx, &req)
	if err != nil {
		return err
	}
	err = fill(place)
	if err == nil && place != name {
		err = c.RenameVDI(ctx, &api.RenameRequest{Name: place, NewName: name})
	}
	if err != nil {
		return errors.Join(err, removeHalf(ctx, c, place))
	}
	v.Name = name
	return d.made(v, "VDI ID of newly created VDI")
}

// removeHalf deletes a VDI, not into the trash, although the command was perhaps
// interrupted.
func removeHalf(ctx context.Context, c *api.Client, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return failed(c.DeleteVDI(ctx, &api.DeleteRequest{Name: name, Purge: true}), "delete the unfinished VDI %s", name)
}

// importFile lets qemu-img read the image and write to the node's NBD server.
func (d *dog) importFile(ctx context.Context, c *api.Client, o *importOptions) error {
	qemu, err := exec.LookPath("qemu-img")
	if err != nil {
		return fmt.Errorf("qemu-img is not installed; it reads the image (Debian: apt install qemu-utils). A raw image can come by stdin: dog vdi import - %s < %s", o.create.Name, o.file)
	}
	size, err := imageSize(ctx, qemu, o)
	if err != nil {
		return err
	}
	if o.create.SizeBytes == 0 {
		o.create.SizeBytes = size
	}
	if o.create.SizeBytes < size {
		return fmt.Errorf("the image has %d bytes, which is more than --size %s", size, o.size)
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return d.filled(ctx, c, o, func(name string) error {
		target, err := nbdTarget(st, d.address, name)
		if err != nil {
			return err
		}
		return d.convert(ctx, qemu, o, target)
	})
}

// imageSize is the size of the disk in the image, in bytes.
func imageSize(ctx context.Context, qemu string, o *importOptions) (uint64, error) {
	out, err := runQEMU(ctx, qemu, nil, append(withFormat(o, "info", "--output=json"), "--", plainFile(o.file))...)
	if err != nil {
		return 0, err
	}
	var info struct {
		Size uint64 `json:"virtual-size"`
	}
	if err := json.Unmarshal(out, &info); err != nil || info.Size == 0 {
		return 0, fmt.Errorf("qemu-img finds no disk in %s", o.file)
	}
	return info.Size, nil
}

// convert runs qemu-img; a new VDI is all zeros, so only data are sent.
func (d *dog) convert(ctx context.Context, qemu string, o *importOptions, target string) error {
	args := []string{"convert", "-n", "--target-is-zero", "-W", "--target-image-opts"}
	var show io.Writer
	if isTerminal(d.stderr) {
		args, show = append(args, "-p"), d.stderr
	}
	if o.format != "" {
		args = append(args, "-f", o.format)
	}
	_, err := runQEMU(ctx, qemu, show, append(args, "--", plainFile(o.file), target)...)
	return err
}

func withFormat(o *importOptions, args ...string) []string {
	if o.format != "" {
		args = append(args, "-f", o.format)
	}
	return args
}

// plainFile keeps QEMU from taking a file name for a protocol or JSON.
func plainFile(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return "./" + name
}

// runQEMU returns what it wrote to stdout, unless that goes to show; its
// complaints become the error.
func runQEMU(ctx context.Context, qemu string, show io.Writer, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, qemu, args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if show != nil {
		cmd.Stdout = show
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return out.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	if text := strings.TrimSpace(complaints.String()); text != "" {
		return nil, fmt.Errorf("%s", text)
	}
	return nil, fmt.Errorf("qemu-img: %w", err)
}

// nbdTarget is QEMU's name of the VDI at the node's NBD server: its socket if
// that is on this host, else its TCP address. A server that listens on all
// addresses is reached at the one dog was given.
func nbdTarget(st *api.Status, address, vdi string) (string, error) {
	quote := strings.NewReplacer(",", ",,")
	export := "driver=nbd,export=" + quote.Replace(vdi)
	if path := st.NBD.Unix; path != "" && isLocal(address) {
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			return export + ",server.type=unix,server.path=" + quote.Replace(path), nil
		}
	}
	if st.NBD.TCP == "" {
		return "", fmt.Errorf("the node serves no NBD that can be reached from here; ask another one with -a and -p, or start it with --nbd")
	}
	host, port, err := net.SplitHostPort(st.NBD.TCP)
	if err != nil {
		return "", fmt.Errorf("NBD address of the node: %w", err)
	}
	ip := net.ParseIP(host)
	switch {
	case host == "" || ip != nil && ip.IsUnspecified():
		host = strings.Trim(address, "[]")
	case ip != nil && ip.IsLoopback() && !isLocal(address):
		return "", fmt.Errorf("the node serves NBD only to its own host (%s); run dog there, or start sheep with --nbd", st.NBD.TCP)
	}
	return fmt.Sprintf("%s,server.type=inet,server.host=%s,server.port=%s", export, quote.Replace(host), port), nil
}

func isLocal(address string) bool {
	ip := net.ParseIP(strings.Trim(address, "[]"))
	return address == "localhost" || ip != nil && ip.IsLoopback()
}

// importStream makes a VDI of the raw bytes of stdin, leaving zeros out.
func (d *dog) importStream(ctx context.Context, c *api.Client, o *importOptions) error {
	if o.format != "" && o.format != "raw" {
		return fmt.Errorf("only raw images can come by stdin, not %s", o.format)
	}
	fileBytes, isFile := regular(d.stdin)
	if o.create.SizeBytes == 0 {
		o.create.SizeBytes = fileBytes
	}
	if o.create.SizeBytes == 0 {
		return fmt.Errorf("the size of stdin is not known; give it with --size")
	}
	bar := d.progress(show.Size)
	defer bar.end()
	return d.filled(ctx, c, o, func(name string) error {
		n, err := copySparse(ctx, c, name, o.create.SizeBytes, &interruptible{ctx.Done(), d.stdin}, bar)
		if err == nil && n < o.create.SizeBytes && !isFile && !o.pad {
			return fmt.Errorf("stdin ended after %d of %d bytes, as it does when what writes to it fails; if that is the whole image, --pad takes the rest as zeros", n, o.create.SizeBytes)
		}
		return err
	})
}

// regular is the length of a file, if r is one.
func regular(r io.Reader) (bytes uint64, is bool) {
	f, ok := r.(*os.File)
	if !ok {
		return 0, false
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return uint64(fi.Size()), true
}

// interruptible stops waiting for r when done is closed, so that an interrupt
// is heard while a pipe is silent.
type interruptible struct {
	done <-chan struct{}
	r    io.Reader
}

// errInterrupted is returned by a Read that did not wait any longer.
var errInterrupted = errors.New("interrupted")

func (i *interruptible) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	got := make(chan result, 1)
	// A read of a silent pipe cannot be called off: after an interrupt this
	// goroutine, and b, stay behind until the process ends, which is at once.
	go func() {
		n, err := i.r.Read(b)
		got <- result{n, err}
	}()
	select {
	case r := <-got:
		return r.n, r.err
	case <-i.done:
		return 0, errInterrupted
	}
}

// Pieces of a stream: a chunk is read at a time; what is zero in units of a
// grain is not written.
const (
	chunk = 4 << 20
	grain = 64 << 10
)

// copySparse returns how many bytes r had.
func copySparse(ctx context.Context, c *api.Client, name string, size uint64, r io.Reader, bar *progress) (off uint64, err error) {
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return off, fmt.Errorf("read stdin: %w", err)
		}
		if uint64(n) > size-off {
			return off, fmt.Errorf("stdin has more than %d bytes", size)
		}
		for _, run := range dataRuns(buf[:n]) {
			req := &api.WriteRequest{Name: name, Offset: off + uint64(run.start), Length: int64(run.end - run.start)}
			if _, werr := c.WriteVDI(ctx, req, bytes.NewReader(buf[run.start:run.end])); werr != nil {
				return off, werr
			}
		}
		off += uint64(n)
		bar.draw(off, size)
		if err != nil {
			return off, nil
		}
	}
}

// run is a range of bytes in a chunk.
type run struct{ start, end int }

// dataRuns are the parts of buf that are not zero, in units of a grain.
func dataRuns(buf []byte) (runs []run) {
	var zero [grain]byte
	for start := 0; start < len(buf); start += grain {
		end := min(start+grain, len(buf))
		if bytes.Equal(buf[start:end], zero[:end-start]) {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].end == start {
			runs[n-1].end = end
			continue
		}
		runs = append(runs, run{start, end})
	}
	return runs
}
