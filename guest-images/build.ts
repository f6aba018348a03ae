/** `tsx guest-images/build.ts`: makes the images that are missing and prints where they are. */
import { guestImages } from './images.ts';

console.log(JSON.stringify(await guestImages(), null, 2));
