package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// storeNameLength is the size of the file that says how a directory is laid out.
const storeNameLength = 16

// nodeFormat keeps scripts going that prepare a directory before sheep starts:
// sheep has one layout, and makes it itself.
func (d *dog) nodeFormat() *cobra.Command {
	return &cobra.Command{Use: "format <directory> {plain|tree}", Short: "Prepare the directory of a node, which need not be done", Args: arguments(2, 2, "directory", "store format: plain or tree"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := d.checkOptions(); err != nil {
				return err
			}
			if args[1] != "plain" && args[1] != "tree" {
				return &failure{code: exitSystem, err: fmt.Errorf("expected store format: plain, tree; not '%s'", args[1])}
			}
			if err := writeStoreName(filepath.Join(args[0], "node_config"), args[1]); err != nil {
				return &failure{code: exitSystem, err: failed(err, "format %s", args[0])}
			}
			return nil
		}}
}

// writeStoreName makes a new file with the name, padded with zeros.
func writeStoreName(path, name string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("config file already exists: %s", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(append([]byte(name), make([]byte, storeNameLength-len(name))...))
	return errors.Join(err, f.Close())
}
