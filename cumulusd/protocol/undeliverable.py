"""What follows when a message has no form that its session could be sent."""

from cumulusd.errors import InvalidArgument, TooLarge
from cumulusd.protocol import messages
from cumulusd.protocol.codec import CodecError
from cumulusd.protocol.dealer import Dealer
from cumulusd.protocol.local_session import internal_error
from cumulusd.protocol.messages import Effect, Message, Send, error_reply, wamp
from cumulusd.protocol.remote_session import MessageTooLarge, RemoteSession


def apologies(
    dealer: Dealer, session: RemoteSession, message: Message, error: CodecError
) -> list[Effect]:
    """Whoever waits for the message is told instead."""
    kind = type(message).__name__.upper()
    job_id = messages.job_id_of(message)
    session.refused_form(kind, job_id, error)
    refused = (TooLarge if isinstance(error, MessageTooLarge) else InvalidArgument)(
        f"the {kind} can't be sent: {error}", job_id=job_id
    )
    match message:
        case wamp.Result():
            return dealer.refuse_result(session.session_id, message.request, refused)
        case wamp.Invocation():
            return dealer.refuse_invocation(session.session_id, message.request, refused)
        case wamp.Error():
            # Of the peers' own text only what any serialisation takes, or this one would be next.
            told = job_id if job_id is not None and job_id.isprintable() else None
            opaque = internal_error("the request", session.error_withheld(message), told)
            reply = error_reply(message.request_type, message.request, opaque)
            return [Send(session.session_id, reply)]
        case wamp.Event():
            session.event_lost(message)
        case _:
            session.abort("message_form", f"a {kind} could not be sent")
    return []
