// Attaches a volume to a domain, shows each change that the daemon reports of it, and detaches it again.
//
//	attach_watch_detach -volume vol-1 -domain web connection-info.json
//	attach_watch_detach -volume vol-1 connection-info.json    # to this host alone, into no domain
//
// The file holds Cinder's connection info. build.sh builds it.
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "volattachv1" // generated from proto/volattach/v1/volattach.proto
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

var (
	target  = flag.String("target", "unix:/run/volattach/volattachd.sock", "the daemon's `socket`")
	volume  = flag.String("volume", "", "the volume's `id`")
	domain  = flag.String("domain", "", "`UUID or name`; none: connect the volume to this host alone")
	seconds = flag.Float64("timeout", 120, "`seconds` for each call, its repeats included")
)

func timeout() time.Duration {
	return time.Duration(*seconds * float64(time.Second))
}

// reason is the stable reason of an error of the daemon's, and empty for gRPC's own.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "volattach" {
			return info.Reason
		}
	}
	return ""
}

// retryAfter is the pause that the daemon asks for, or else the one given.
func retryAfter(err error, otherwise time.Duration) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return time.Duration(info.RetryDelay.Seconds)*time.Second + time.Duration(info.RetryDelay.Nanos)
		}
	}
	return otherwise
}

// passes says whether the same call may work later: docs/errors.md, "By code".
func passes(err error) bool {
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.DeadlineExceeded:
		return reason(err) != "UNPLUG_PENDING" // the daemon itself asks the guest again
	case codes.ResourceExhausted:
		return retryAfter(err, 0) > 0
	}
	return false
}

// repeat makes a call until it succeeds or fails for good, or the timeout is over. Calls are idempotent by the attachment's id.
func repeat(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout())
	defer cancel()
	var known error // the last one that has a reason: that the time is over says less
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := call(ctx)
		if reason(err) != "" || known == nil {
			known = err
		}
		if err == nil || !passes(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return known
		case <-time.After(retryAfter(err, pause)):
		}
	}
}

// watcher follows the volume's attachments: first all as they are, then each change.
type watcher struct {
	client   pb.VolumeAttachClient
	stream   pb.VolumeAttach_WatchAttachmentsClient
	revision string // up to which everything was received; empty: not even the list of what there is
	listed   bool   // whether the list had an attachment
}

// next waits for the next message. It resumes a broken watch, and begins anew if the daemon no longer knows what changed since.
func (w *watcher) next() (*pb.WatchAttachmentsResponse, error) {
	var broken time.Time
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		message, err := w.receive()
		if err == nil {
			return message, nil
		}
		w.stream = nil
		if reason(err) == "WATCH_EXPIRED" && w.revision != "" {
			w.revision = ""
			continue
		}
		if broken.IsZero() {
			broken = time.Now()
		}
		if !passes(err) || time.Since(broken) > timeout() {
			return nil, err
		}
		time.Sleep(retryAfter(err, pause))
	}
}

func (w *watcher) receive() (*pb.WatchAttachmentsResponse, error) {
	if w.stream == nil {
		request := &pb.WatchAttachmentsRequest{
			Filter:      &pb.AttachmentFilter{VolumeId: *volume},
			ResumeAfter: w.revision,
		}
		stream, err := w.client.WatchAttachments(context.Background(), request)
		if err != nil {
			return nil, err
		}
		w.stream = stream
		w.listed = w.revision != ""
	}
	return w.stream.Recv()
}

// follow prints the changes of an attachment up to that state. Without an id, it returns when the list of what there is has ended.
func (w *watcher) follow(id string, last pb.State) error {
	for {
		message, err := w.next()
		if err != nil {
			return err
		}
		ended := w.revision == "" && message.Attachment == nil // the list
		if message.Revision != "" {
			w.revision = message.Revision
		}
		attachment := message.Attachment
		switch {
		case ended && (id == "" || last == pb.State_STATE_GONE && !w.listed):
			return nil
		case attachment == nil || attachment.AttachmentId != id:
			continue
		}
		w.listed = true
		fmt.Println(id, attachment.State, attachment.Error)
		if attachment.State == last {
			return nil
		}
	}
}

func run(client pb.VolumeAttachClient, file string) error {
	json, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	info := &pb.ConnectionInfo{Form: &pb.ConnectionInfo_CinderJson{CinderJson: string(json)}}
	// The id is chosen before the first call and kept: after a crash, the same request with the same id goes on where it was.
	id := newID()
	watch := &watcher{client: client}
	if err := watch.follow("", 0); err != nil {
		return err
	}

	var made *pb.Attachment
	err = repeat(func(ctx context.Context) error {
		if *domain == "" {
			request := &pb.ConnectVolumeRequest{AttachmentId: id, VolumeId: *volume, ConnectionInfo: info}
			response, err := client.ConnectVolume(ctx, request)
			made = response.GetAttachment()
			return err
		}
		request := &pb.AttachVolumeRequest{AttachmentId: id, VolumeId: *volume, Domain: *domain, ConnectionInfo: info}
		response, err := client.AttachVolume(ctx, request)
		made = response.GetAttachment()
		return err
	})
	if err != nil {
		return err
	}
	if *domain == "" {
		fmt.Println("this host has it as", made.HostPath)
	} else {
		fmt.Println(made.DomainName, "has it as", made.Target)
	}
	if err := watch.follow(id, made.State); err != nil {
		return err
	}

	err = repeat(func(ctx context.Context) error {
		if *domain == "" {
			_, err := client.DisconnectVolume(ctx, &pb.DisconnectVolumeRequest{AttachmentId: id})
			return err
		}
		_, err := client.DetachVolume(ctx, &pb.DetachVolumeRequest{AttachmentId: id})
		return err
	})
	if reason(err) == "UNPLUG_PENDING" {
		fmt.Println(status.Convert(err).Message())
	} else if err != nil {
		return err
	}
	return watch.follow(id, pb.State_STATE_GONE)
}

func main() {
	flag.Parse()
	if *volume == "" || flag.NArg() != 1 {
		fmt.Fprintln(flag.CommandLine.Output(), "a -volume and the file of its connection info are needed")
		flag.Usage()
		os.Exit(2)
	}
	connection, err := grpc.Dial(*target, grpc.WithInsecure(), grpc.WithAuthority("localhost"))
	if err == nil {
		defer connection.Close()
		err = run(pb.NewVolumeAttachClient(connection), flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v (%s)\n", err, reason(err))
		os.Exit(1)
	}
}

func newID() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		panic(err)
	}
	return fmt.Sprintf("%x", bytes)
}

func min(a, b time.Duration) time.Duration {
	if a < b {
		return a
	}
	return b
}
