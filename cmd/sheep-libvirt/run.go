package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog/api"
	"sheepdog/libvirtpool/control"
	"sheepdog/libvirtpool/server"
	"sheepdog/libvirtpool/storage"
)

// options are the flags.
type options struct {
	listen, listenRO     string
	mode, group          string
	upstream, upstreamRO string
	api, nbd             string
	reconnect            int
	state, spool         string
	maxClients           int
	level                string
}

// statusTimeout bounds the question for the NBD socket at the start.
const statusTimeout = 30 * time.Second

func (o *options) check() error {
	switch {
	case o.listenRO != "" && o.upstream != "" && o.upstreamRO == "":
		return errors.New("--listen-ro in front of a libvirtd needs --upstream-ro, so that libvirtd too allows reading only")
	case o.listen == o.upstream || o.listenRO != "" && (o.listenRO == o.upstreamRO || o.listenRO == o.listen):
		return errors.New("every socket needs a path of its own; move libvirtd's with unix_sock_dir in libvirtd.conf")
	case o.reconnect < 0 || o.maxClients < 0:
		return errors.New("--nbd-reconnect and --max-clients cannot be negative")
	}
	return nil
}

func run(ctx context.Context, o *options) error {
	log, err := o.logger()
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	client := api.NewClient(o.api)
	defer client.Close()
	store := control.NewStore(client)
	srv, err := o.server(ctx, client, store, log)
	if err != nil {
		return err
	}
	listeners, err := o.listeners()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error { return srv.Serve(ctx, l, l.access) })
	}
	group.Go(func() error { srv.Watch(ctx); return nil })
	group.Go(func() error { srv.ThawLate(ctx); return nil })
	log.Info("ready", "socket", o.listen, "upstream", o.upstream, "api", o.api)
	return group.Wait()
}

func (o *options) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", o.level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}

func (o *options) server(ctx context.Context, client *api.Client, store *control.Store, log *slog.Logger) (*server.Server, error) {
	if err := os.MkdirAll(o.state, 0o750); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	driver, err := storage.New(storage.Config{
		Store: store, Definitions: control.NewDefinitions(client), Logger: log,
		StateFile: filepath.Join(o.state, "active-pools.json"), SpoolDir: o.spool,
	})
	if err != nil {
		return nil, err
	}
	socket, err := o.nbdSocket(ctx, client)
	if err != nil {
		return nil, err
	}
	return server.New(server.Config{
		Driver: driver, Upstream: o.upstream, UpstreamReadOnly: o.upstreamRO, NBDSocket: socket, NBDReconnect: o.reconnect,
		Snapshots: store, MaxClients: o.maxClients, Logger: log,
	})
}

// nbdSocket is where guests find their disks; storage alone needs none.
func (o *options) nbdSocket(ctx context.Context, client *api.Client) (string, error) {
	if o.nbd != "" || o.upstream == "" {
		return o.nbd, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := client.Status(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the sheep at %s for its NBD socket (or give --nbd-socket): %w", o.api, err)
	}
	if st.NBD.Unix == "" {
		return "", fmt.Errorf("the sheep at %s serves no NBD on a unix socket", o.api)
	}
	return filepath.Abs(st.NBD.Unix)
}

// listener is a socket and what it allows.
type listener struct {
	net.Listener
	access server.Access
}

func (o *options) listeners() ([]listener, error) {
	l, err := listen(o.listen, o.mode, o.group)
	if err != nil {
		return nil, err
	}
	out := []listener{{l, server.ReadWrite}}
	if o.listenRO != "" {
		l, err := listen(o.listenRO, "0666", o.group)
		if err != nil {
			out[0].Close()
			return nil, err
		}
		out = append(out, listener{l, server.ReadOnly})
	}
	return out, nil
}
