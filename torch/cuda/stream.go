package cuda

import (
	"runtime"
	"time"

	"l2ul/torch"
)

// Stream is a queue of work on a device. Work on one stream runs in order, on several side by side; an [Event] orders
// them. Streams come from libtorch's pool and need no freeing.
type Stream struct {
	device torch.Device
	id     int64
}

var (
	opSynchronize       = torch.Define("torchgo_cuda::synchronize(int device) -> ()")
	opStreamNew         = torch.Define("torchgo_cuda::stream_new(int device) -> int")
	opExchangeDevice    = torch.Define("torchgo_cuda::exchange_device(int device) -> int")
	opStreamCurrent     = torch.Define("torchgo_cuda::stream_current(int device) -> int")
	opStreamSet         = torch.Define("torchgo_cuda::stream_set(int device, int stream) -> ()")
	opStreamSynchronize = torch.Define("torchgo_cuda::stream_synchronize(int device, int stream) -> ()")
)

// Synchronize waits until a device has done all that it was given.
func Synchronize(dev torch.Device) { opSynchronize.Do(dev.Index) }

// NewStream returns another stream of the device.
func NewStream(dev torch.Device) Stream {
	return Stream{dev, opStreamNew.Call(dev.Index)[0].(int64)}
}

// CurrentStream returns the stream that this thread's work on the device goes to. The caller must be inside
// [torch.Run] or another function that locks the thread.
func CurrentStream(dev torch.Device) Stream {
	return Stream{dev, opStreamCurrent.Call(dev.Index)[0].(int64)}
}

// On runs fn with the stream's device as the current one and its work there going to s. A tensor made on one stream and used on another must
// outlive the work of both, ordered by events.
func (s Stream) On(fn func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	device, stream := opExchangeDevice.Call(s.device.Index)[0], CurrentStream(s.device)
	opStreamSet.Do(s.device.Index, s.id)
	defer func() {
		opStreamSet.Do(s.device.Index, stream.id)
		opExchangeDevice.Do(device)
	}()
	fn()
}

// Synchronize waits until the stream has done all that it was given.
func (s Stream) Synchronize() { opStreamSynchronize.Do(s.device.Index, s.id) }

// Wait lets what s is given from now on wait for the event. It does not wait itself.
func (s Stream) Wait(e *Event) { opEventWait.Do(e.address, s.device.Index, s.id) }

// Event is a mark in a stream, with the time at which the device passed it.
type Event struct{ address int64 }

var (
	opEventNew         = torch.Define("torchgo_cuda::event_new() -> int")
	opEventRecord      = torch.Define("torchgo_cuda::event_record(int event, int device, int stream) -> ()")
	opEventWait        = torch.Define("torchgo_cuda::event_wait(int event, int device, int stream) -> ()")
	opEventSynchronize = torch.Define("torchgo_cuda::event_synchronize(int event) -> ()")
	opEventDone        = torch.Define("torchgo_cuda::event_done(int event) -> bool")
	opEventElapsed     = torch.Define("torchgo_cuda::event_elapsed(int event, int later) -> float")
	opEventFree        = torch.Define("torchgo_cuda::event_free(int event) -> ()")
)

// Record marks what s has been given so far. The caller frees the event.
func (s Stream) Record() *Event {
	e := &Event{opEventNew.Call()[0].(int64)}
	opEventRecord.Do(e.address, s.device.Index, s.id)
	return e
}

// Synchronize waits until the device has passed the event.
func (e *Event) Synchronize() { opEventSynchronize.Do(e.address) }

// Done reports whether the device has passed the event.
func (e *Event) Done() bool { return opEventDone.Call(e.address)[0].(bool) }

// Until returns the device's time from e to a later event, both of which it has passed.
func (e *Event) Until(later *Event) time.Duration {
	ms := opEventElapsed.Call(e.address, later.address)[0].(float64)
	return time.Duration(ms * float64(time.Millisecond))
}

// Free gives the event back. It may not be used afterwards.
func (e *Event) Free() {
	opEventFree.Do(e.address)
	e.address = 0
}
