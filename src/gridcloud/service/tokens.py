"""API tokens over HTTP: one's own, or anybody's for an administrator."""

from __future__ import annotations

from fastapi import APIRouter

from gridcloud.errors import Forbidden
from gridcloud.service.access import Asking, TheHouse
from gridcloud.service.token_documents import IssuedToken, TokenInfo, Tokens, TokenWish

__all__ = ["router"]

router = APIRouter(tags=["tokens"])


@router.post("/tokens", status_code=201)
async def create(wish: TokenWish, caller: Asking, house: TheHouse) -> IssuedToken:
    """Make a token; its text is in this answer only."""
    user = caller.owner(wish.user)
    if wish.admin and not caller.admin:
        raise Forbidden("Only an administrator makes administrators.")
    if wish.admin:
        found = await house.users.get(user)
        await house.users.put(found.model_copy(update={"admin": True}))
    token, secret = await house.tokens.issue(user, note=wish.note, seconds=wish.time or None)
    info = TokenInfo.model_validate(token.model_dump(exclude={"hash", "scopes"}))
    return IssuedToken(token=info, secret=secret.reveal())


@router.get("/tokens")
async def find(caller: Asking, house: TheHouse) -> Tokens:
    """List tokens, without their secrets: one's own, or everybody's for an administrator."""
    found = await house.tokens.find(None if caller.admin else caller.user)
    return Tokens(
        tokens=[TokenInfo.model_validate(token.model_dump(exclude={"hash", "scopes"})) for token in found]
    )


@router.delete("/tokens/{token_id}", status_code=204)
async def revoke(token_id: str, caller: Asking, house: TheHouse) -> None:
    """Make a token worthless at once."""
    await house.tokens.revoke(token_id, None if caller.admin else caller.user)
