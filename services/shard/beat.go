package shard

import (
	"context"

	"github.com/shoal-llm/shoal/internal/wire"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// beat asks a neighbour for signs of life on a connection of its own. It returns
// when ctx ends or the neighbour is silent, in either direction: a link that
// loses everything shows no error.
func (s *Shard) beat(ctx context.Context, to *pb.Stage) error {
	conn, err := s.dial(to)
	if err != nil {
		return err
	}
	defer conn.Close()
	return wire.Beat(ctx, conn)
}
