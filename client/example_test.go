package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/shoal-llm/shoal/client"
	pb "github.com/shoal-llm/shoal/proto/shoal/v1"
)

// An answer with a key, a deadline and an end: the context stops it.
func ExampleClient_Generate() {
	c, err := client.New(client.Config{Address: "127.0.0.1:8081", Key: os.Getenv("SHOAL_API_KEY")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	question := &pb.Generation{
		Input:    &pb.Generation_Prompt{Prompt: "Why do fish swim in shoals?"},
		Sampling: &pb.Sampling{Temperature: 0.7, MaxTokens: 200},
	}
	for e, err := range c.Generate(ctx, question) {
		var stopped *client.StoppedError
		if errors.As(err, &stopped) {
			fmt.Println("\nended:", stopped.Reason)
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(e.GetToken().GetDelta().GetContent())
	}
}
