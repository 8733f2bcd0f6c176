package node

import (
	"context"

	"sheepdog/api"
	"sheepdog/vdi"
)

// Limits are those of a working VDI.
func (b backend) Limits(ctx context.Context, name string) (*api.Limits, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	l, err := b.n.vdis.Limits(name)
	if err != nil {
		return nil, err
	}
	return &api.Limits{Name: name, IOPS: l.IOPS, BytesPerSecond: l.BytesPerSecond, BurstSeconds: l.BurstSeconds}, nil
}

// SetLimits commits the limits of a VDI.
func (b backend) SetLimits(ctx context.Context, l *api.Limits) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	return b.n.vdis.SetLimits(ctx, l.Name, vdi.Limits{IOPS: l.IOPS, BytesPerSecond: l.BytesPerSecond, BurstSeconds: l.BurstSeconds})
}
